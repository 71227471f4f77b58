"""Several hosts on one machine, for tests: each has its own network, file systems, processes and clock.

    with Network(folder) as network:
        one, two = network.host("one"), network.host("two")
        one.run("ping", "-c1", two.address)

Root on Linux is needed, with iproute2, util-linux and iptables. Nothing is left when the block ends, nor when the
program that has started them is killed.
"""
