"""What a power cut may leave of a run: its system calls are recorded, and each state of the disk is rebuilt.

**Recording.** strace writes down every call that changes files below some folders, with its data (`trace`).

**The model of the file system.** It is that of POSIX and of the manual pages fsync(2), fdatasync(2), syncfs(2) and
rename(2), without what single file systems promise in addition. Pillai et al., "All File Systems Are Not Created
Equal" (OSDI 2014), found that programs rely on such promises without need.

- A change is an *operation*: a name is entered into a folder or taken out of it, a file is written, cut or given
  an attribute. Until it is flushed, it may be on the disk or not, whatever other operations are.
- fdatasync of a file keeps its content and its length. fsync also keeps its attributes. Neither keeps its name.
- fsync of a folder keeps the names that were entered and taken out before. It does not keep the names above it.
- syncfs keeps all operations on its file system. (Linux does so; POSIX has only sync, which need not wait.)
- A flush keeps what had ended when it began, from the moment when it has ended.
- rename replaces a name in one step: there is never neither file. Between two folders it enters the name in one
  and takes it out of the other. The file may have both names after a power cut, but not none.
- A write that was not flushed may be there in part: here, its first half.
- Nothing that was flushed is lost, and nothing changes that was not written.

**States.** After each operation of the run: the disk with all operations, without any one or any two of those that
no flush had kept, and without all of them; each also with the last write cut in half (`states`).
"""

from imageloom.testing.power.states import Found, States
from imageloom.testing.power.trace import Trace, record

__all__ = ["Found", "States", "Trace", "record"]
