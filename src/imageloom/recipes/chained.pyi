# Made by `python -m imageloom.testing.stubs`. Do not edit.
from typing import Literal, Self

class Chained:
    __slots__ = ()
    def gaussian_blur(
        self,
        sigma: float | None = None,
        kernel: int | None = None,
        light: Literal['encoded', 'linear'] = 'encoded',
    ) -> Self:
        """Blur with a Gaussian of standard deviation sigma, in pixels, cut off at 3 sigma.

        Give either sigma, or kernel: the width of the kernel, an odd number of pixels. The same as OpenCV's
        GaussianBlur. The image is mirrored at its edges. light=linear averages light instead of values, by the curve
        of sRGB.

        Args:
            sigma: a number above 0 up to 100  [None]
            kernel: a whole number from 1 to 601  [None]
            light: encoded or linear  [encoded]

        In a text: 'gaussian_blur 1.2', 'gaussian_blur sigma=1.2', 'gaussian_blur kernel=21', 'gaussian_blur 4 light=linear'.
        """
    def box_blur(self, kernel: int = 3, light: Literal['encoded', 'linear'] = 'encoded') -> Self:
        """Replace each pixel by the mean of the kernel x kernel pixels around it (OpenCV's blur).

        The image is mirrored at its edges. light=linear averages light instead of values, by the curve of sRGB.

        Args:
            kernel: a whole number from 1 to 601  [3]
            light: encoded or linear  [encoded]

        In a text: 'box_blur 5'.
        """
    def median_blur(self, kernel: int = 3) -> Self:
        """Replace each pixel by the median of the kernel x kernel pixels around it (OpenCV's medianBlur).

        The edge pixels are repeated outwards. For 16-bit and float images, kernel must be 3 or 5.

        Args:
            kernel: a whole number from 1 to 255  [3]

        In a text: 'median_blur 5'.
        """
    def bilateral(self, kernel: int = 9, sigma_color: float = 25.0, sigma_space: float = 3.0) -> Self:
        """Blur and keep edges: a neighbour has less weight the farther away and the more different it is.

        sigma_color is a difference of values on a scale from 0 to 255 for all dtypes; sigma_space is in pixels. Alpha
        is ignored and not changed. The same as OpenCV's bilateralFilter (C. Tomasi and R. Manduchi, "Bilateral
        filtering for gray and color images", ICCV 1998).

        Args:
            kernel: a whole number from 3 to 51  [9]
            sigma_color: a number above 0 up to 1000  [25.0]
            sigma_space: a number above 0 up to 100  [3.0]

        In a text: 'bilateral', 'bilateral 9 40 3'.
        """
    def motion_blur(
        self,
        length: int,
        angle: float = 0.0,
        light: Literal['encoded', 'linear'] = 'encoded',
    ) -> Self:
        """Blur along a line of length pixels, at an angle in degrees counter-clockwise from the horizontal.

        Each pixel becomes the mean of the pixels nearest to points on the line, which are one pixel apart. The image
        is mirrored at its edges. light=linear averages light instead of values, by the curve of sRGB: bright points
        become bright lines.

        Args:
            length: a whole number from 1 to 255
            angle: a number from -360 to 360  [0.0]
            light: encoded or linear  [encoded]

        In a text: 'motion_blur 15', 'motion_blur 21 angle=45'.
        """
    def sharpen(self, sigma: float = 1.0, amount: float = 1.0) -> Self:
        """Sharpen by an unsharp mask: add the difference between the image and its Gaussian blur, times the amount.

        sigma is the standard deviation of the blur, in pixels. Float values may exceed the range 0 to 1 at edges.

        Args:
            sigma: a number above 0 up to 100  [1.0]
            amount: a number from 0 to 10  [1.0]

        In a text: 'sharpen', 'sharpen 2 amount=0.5'.
        """
    def crop(self, area: str, at: Literal['center', 'attention', 'entropy'] = 'center') -> Self:
        """Cut out the area WIDTHxHEIGHT+LEFT+TOP, in pixels, or WIDTHxHEIGHT from the centre.

        at=attention places WIDTHxHEIGHT around what draws attention: edges, skin, and saturated colours. at=entropy
        places it where the most detail is: it cuts off the less detailed of two opposite sides, again and again. Both
        follow `smartcrop` of libvips (J. Wagner's smartcrop.js) on a grid of cells; alpha is ignored.

        Args:
            area: WIDTHxHEIGHT (centred) or WIDTHxHEIGHT+LEFT+TOP, in pixels
            at: center, attention or entropy  [center]

        In a text: 'crop 640x480', 'crop 640x480+10+20', 'crop 640x480 at=attention', 'crop 64x48 at=entropy'.
        """
    def flip(self, axis: Literal['horizontal', 'vertical'] = 'horizontal') -> Self:
        """Mirror the image left to right (horizontal) or top to bottom (vertical).

        Args:
            axis: horizontal or vertical  [horizontal]

        In a text: 'flip', 'flip horizontal', 'flip vertical'.
        """
    def rotate(self, degrees: Literal[90, 180, 270]) -> Self:
        """Rotate by 90, 180 or 270 degrees clockwise.

        Args:
            degrees: 90, 180 or 270

        In a text: 'rotate 90', 'rotate 180', 'rotate 270'.
        """
    def auto_orient(self) -> Self:
        """Rotate by the EXIF orientation. This happens to every image anyway, when it is decoded.

        Therefore this step changes no pixel. It is accepted so that a pipeline can name it.

        In a text: 'auto_orient'.
        """
    def pad(
        self,
        area: int | str,
        color: str = '#000000',
        fill: Literal['color', 'edge', 'mirror'] = 'color',
    ) -> Self:
        """Add a border of a number of pixels on each side, or extend the image to WIDTHxHEIGHT around its centre.

        WIDTHxHEIGHT+LEFT+TOP places the image at that position. The border has the color, #RRGGBB or #RRGGBBAA, or
        repeats the edge pixels (fill=edge), or mirrors the image (fill=mirror). A gray image gets the luma of the
        color, and an image without alpha ignores the color's alpha.

        Args:
            area: a whole number from 0 to 100000 or WIDTHxHEIGHT (centred) or WIDTHxHEIGHT+LEFT+TOP, in pixels
            color: #RRGGBB, or #RRGGBBAA with the alpha last  [#000000]
            fill: color, edge or mirror  [color]

        In a text: 'pad 20', 'pad 1920x1080', 'pad 640x480+10+20 color=#ffffff', 'pad 8 fill=mirror'.
        """
    def border(self, width: int | str, color: str = '#ffffff') -> Self:
        """Put a border of one colour around the image; the image itself keeps its size.

        The width is a number of pixels on each side, or ACROSSxDOWN: at the left and right, and at the top and bottom,
        or PERCENT% of the image's shorter side. The color is #RRGGBB or #RRGGBBAA. A gray image gets the luma of the
        color, and an image without alpha ignores the color's alpha.

        Args:
            width: a whole number from 0 to 99999 or ACROSSxDOWN in pixels, or PERCENT% of the image's shorter side
            color: #RRGGBB, or #RRGGBBAA with the alpha last  [#ffffff]

        In a text: 'border 16', 'border 30x10 color=#202020', 'border 4% color=#ffffff80'.
        """
    def equalize(self) -> Self:
        """Equalize the histogram of each channel: all levels then occur about equally often.

        Gray images: the same as OpenCV's equalizeHist. Colour images: each channel separately, like Pillow's
        ImageOps.equalize, so hues may change. Transparent pixels are counted too.

        In a text: 'equalize'.
        """
    def autocontrast(self, cutoff: float = 0.0) -> Self:
        """Stretch the levels of each channel: its darkest value becomes black and its lightest white.

        cutoff is the percentage of values that is ignored, and clipped, at the dark end and at the light end. Like
        Pillow's ImageOps.autocontrast; hues may change. A channel with only one level is not changed. Transparent
        pixels are counted too.

        Args:
            cutoff: a number from 0 below 50  [0.0]

        In a text: 'autocontrast', 'autocontrast 1'.
        """
    def clahe(self, clip: float = 2.0, tiles: int = 8) -> Self:
        """Contrast-limited adaptive histogram equalization (CLAHE) in tiles x tiles regions of the image.

        Each region has its own histogram. clip limits the count of a level to this multiple of the mean count. In
        colour images the luma (BT.601) is equalized and the chroma is not changed. The same as OpenCV's CLAHE
        (K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994).

        Args:
            clip: a number above 0 up to 100  [2.0]
            tiles: a whole number from 1 to 64  [8]

        In a text: 'clahe', 'clahe 3 tiles=16'.
        """
    def hue(self, degrees: float) -> Self:
        """Turn the hue of each colour by an angle in degrees: 120 makes red green, green blue, and blue red.

        The luminance remains, and gray does not change. The matrix is that of hue-rotate in W3C's Filter Effects
        Module Level 1. Colours outside the range are clipped.

        Args:
            degrees: a number from -360 to 360

        In a text: 'hue 90', 'hue -30'.
        """
    def white_balance(self, method: Literal['gray', 'white'] = 'gray', cutoff: float = 1.0) -> Self:
        """Remove a colour cast: multiply each channel by a factor.

        method=gray makes the means of R, G and B equal (the gray world; values of black and white are not counted).
        method=white makes the lightest values equal, without the percentage `cutoff` of values above them. A factor is
        from 0.1 to 10. Gray images are not changed. Transparent pixels are counted too.

        Args:
            method: gray or white  [gray]
            cutoff: a number from 0 below 50  [1.0]

        In a text: 'white_balance', 'white_balance white cutoff=1'.
        """
    def sobel(
        self,
        kernel: Literal[3, 5, 7] = 3,
        axis: Literal['both', 'x', 'y'] = 'both',
        scale: float = 1.0,
    ) -> Self:
        """The magnitude of the gradient of each channel, by Sobel's kernels, times the scale.

        With axis=x or axis=y: the absolute value of the derivative along that axis. The kernels are OpenCV's, without
        normalization; the result is clipped to the range of the dtype. The image is mirrored at its edges. Alpha is
        removed.

        Args:
            kernel: 3, 5 or 7  [3]
            axis: both, x or y  [both]
            scale: a number above 0 up to 1000  [1.0]

        In a text: 'sobel', 'sobel 5 scale=0.1', 'sobel axis=x'.
        """
    def scharr(self, axis: Literal['both', 'x', 'y'] = 'both', scale: float = 1.0) -> Self:
        """The magnitude of the gradient of each channel, by Scharr's 3 x 3 kernels, times the scale.

        Like `sobel`, but equally accurate in all directions. H. Scharr, "Optimale Operatoren in der Digitalen
        Bildverarbeitung", dissertation, Heidelberg 2000.

        Args:
            axis: both, x or y  [both]
            scale: a number above 0 up to 1000  [1.0]

        In a text: 'scharr', 'scharr axis=y scale=0.25'.
        """
    def laplacian(self, kernel: Literal[1, 3, 5, 7] = 1, scale: float = 1.0) -> Self:
        """The absolute value of the Laplacian (sum of second derivatives) of each channel, times the scale.

        The same as OpenCV's Laplacian. kernel=1 is the sum of the four neighbours minus four times the pixel. The
        result is clipped to the range of the dtype. The image is mirrored at its edges. Alpha is removed.

        Args:
            kernel: 1, 3, 5 or 7  [1]
            scale: a number above 0 up to 1000  [1.0]

        In a text: 'laplacian', 'laplacian 3 scale=0.5'.
        """
    def canny(
        self,
        low: float = 100.0,
        high: float = 200.0,
        aperture: Literal[3, 5, 7] = 3,
        l2: bool = False,
    ) -> Self:
        """Detect edges: thin white lines on black, by hysteresis between the thresholds low and high.

        The thresholds are compared with the gradient: the sum of the absolute Sobel derivatives, or with l2=true their
        Euclidean norm. In a colour image, the channel with the largest gradient counts. aperture is the width of the
        Sobel kernel. Alpha is ignored. The same as OpenCV's Canny (J. Canny, "A computational approach to edge
        detection", IEEE Trans. PAMI 8, 1986).

        Args:
            low: a number from 0 to 100000  [100.0]
            high: a number from 0 to 100000  [200.0]
            aperture: 3, 5 or 7  [3]
            l2: true or false  [False]

        In a text: 'canny 100 200', 'canny low=100 high=200 aperture=5 l2=true'.
        """
    def edge_mask(self, low: float = 5.0, high: float = 15.0) -> Self:
        """Keep the colours at edges and make all other pixels black.

        The edges are those of `canny low high` in the image after `box_blur 3`. Alpha is ignored and not changed.

        Args:
            low: a number from 0 to 100000  [5.0]
            high: a number from 0 to 100000  [15.0]

        In a text: 'edge_mask', 'edge_mask 20 60'.
        """
    def lut(self, file: str, amount: float = 1.0, digest: str = '') -> Self:
        """Look colours up in a file: a .cube file of one or three dimensions, or a HALD picture (PNG).

        Between the entries, the result is interpolated linearly along each axis. amount is the share of the result,
        from 0 to 1; the rest is the image. Values are used as they are: the table must be for the image's colours.

        A run remembers the content of the file: if it is edited, outputs are made again.

        Args:
            file: the path of a file
            amount: a number from 0 to 1  [1.0]
            digest: the SHA-256 that the file must have, in hexadecimal; jobs fill it in  []

        In a text: 'lut warm.cube', 'lut warm.cube amount=0.5'.
        """
    def erode(self, kernel: int = 3, shape: Literal['square', 'ellipse', 'cross'] = 'square') -> Self:
        """Replace each pixel by the minimum within the kernel around it: light areas shrink.

        Args:
            kernel: a whole number from 1 to 101  [3]
            shape: square, ellipse or cross  [square]

        In a text: 'erode 3', 'erode 5 ellipse'.
        """
    def dilate(self, kernel: int = 3, shape: Literal['square', 'ellipse', 'cross'] = 'square') -> Self:
        """Replace each pixel by the maximum within the kernel around it: light areas grow.

        Args:
            kernel: a whole number from 1 to 101  [3]
            shape: square, ellipse or cross  [square]

        In a text: 'dilate 3', 'dilate 5 cross'.
        """
    def open(self, kernel: int = 3, shape: Literal['square', 'ellipse', 'cross'] = 'square') -> Self:
        """Erode, then dilate: light spots smaller than the kernel disappear.

        Args:
            kernel: a whole number from 1 to 101  [3]
            shape: square, ellipse or cross  [square]

        In a text: 'open 3', 'open 7 ellipse'.
        """
    def close(self, kernel: int = 3, shape: Literal['square', 'ellipse', 'cross'] = 'square') -> Self:
        """Dilate, then erode: dark spots smaller than the kernel disappear.

        Args:
            kernel: a whole number from 1 to 101  [3]
            shape: square, ellipse or cross  [square]

        In a text: 'close 3', 'close 7 ellipse'.
        """
    def overlay(
        self,
        file: str,
        gravity: Literal['center', 'north', 'northeast', 'east', 'southeast', 'south', 'southwest', 'west', 'northwest'] = 'southeast',
        margin: int = 16,
        opacity: float = 1.0,
        scale: str | None = None,
        repeat: bool = False,
        digest: str = '',
    ) -> Self:
        """Lay a picture over the image: a watermark or a logo, a PNG, JPEG or WebP file with or without alpha.

        gravity is the side or corner at which it lies, margin its distance from the edges in pixels. scale is its
        width in percent of the image's width, with its proportions kept; without it, the picture has its own size.
        What lies beyond the image is cut off. repeat=true covers the image with copies, a margin apart. The picture's
        colours are those of the image, its profile is ignored. A gray image gets the luma of the picture.

        A run remembers the content of the file: if it is edited, outputs are made again.

        Args:
            file: the path of a file
            gravity: center, north, northeast, east, southeast, south, southwest, west or northwest  [southeast]
            margin: a whole number from 0 to 100000  [16]
            opacity: a number from 0 to 1  [1.0]
            scale: PERCENT% of the image's width, above 0% and up to 100%  [None]
            repeat: true or false  [False]
            digest: the SHA-256 that the file must have, in hexadecimal; jobs fill it in  []

        In a text: 'overlay logo.png', 'overlay logo.png gravity=southeast margin=16 opacity=0.5 scale=20%', 'overlay logo.png repeat=true opacity=0.2 margin=9'.
        """
    def resize(
        self,
        size: str,
        fit: Literal['exact', 'inside', 'cover', 'pad', 'max', 'min'] = 'exact',
        kernel: Literal['auto', 'nearest', 'linear', 'cubic', 'lanczos', 'area', 'lanczos3', 'mitchell'] = 'auto',
        enlarge: bool = True,
        light: Literal['encoded', 'linear'] = 'encoded',
        background: str = '#000000',
    ) -> Self:
        """Resize to exactly WIDTHxHEIGHT pixels, or proportionally to WIDTHx, xHEIGHT or PERCENT%.

        fit=inside keeps the proportions and fits the image into WIDTHxHEIGHT. fit=cover keeps the proportions, fills
        WIDTHxHEIGHT and crops the rest around the centre. fit=pad is inside, and fills the rest of WIDTHxHEIGHT with
        the background, #RRGGBB or #RRGGBBAA. fit=max is inside, and never enlarges. fit=min is cover without the crop:
        neither side is smaller than that. enlarge=false never enlarges an image. A side has always one pixel at least.

        kernel=auto averages the area of each output pixel (OpenCV's INTER_AREA) if both axes shrink, and interpolates
        linearly otherwise. Interpolating kernels first average the image down to less than twice the target size, so
        that no pixel is skipped; lanczos3 (that of Pillow and libvips) and mitchell average by themselves.
        light=linear averages light instead of values, by the curve of sRGB: fine bright patterns keep their
        brightness. Images of more than 2**25 pixels use the same weights, with other rounding.

        Args:
            size: WIDTHxHEIGHT, WIDTHx, xHEIGHT or PERCENT%, in pixels without a unit
            fit: exact, inside, cover, pad, max or min  [exact]
            kernel: auto, nearest, linear, cubic, lanczos, area, lanczos3 or mitchell  [auto]
            enlarge: true or false  [True]
            light: encoded or linear  [encoded]
            background: #RRGGBB, or #RRGGBBAA with the alpha last  [#000000]

        In a text: 'resize 512x512', 'resize 512x', 'resize x512', 'resize 50%', 'resize 512x512 fit=inside', 'resize 512x512 fit=cover kernel=lanczos', 'resize 64x64 fit=pad background=#ffffff', 'resize 64x48 fit=max kernel=lanczos3 light=linear'.
        """
    def pixelate(self, size: int) -> Self:
        """Replace each block of size x size pixels by its mean, so that details cannot be recognized.

        The blocks begin at the top left corner; those at the right and bottom edges may be smaller.

        Args:
            size: a whole number from 1 to 10000

        In a text: 'pixelate 16', 'pixelate 5'.
        """
    def denoise(
        self,
        strength: float = 6.0,
        patch: Literal[3, 5, 7] = 7,
        search: Literal[7, 11, 15, 21, 31] = 21,
    ) -> Self:
        """Remove noise and keep edges: each pixel becomes a mean of pixels whose surroundings look alike.

        strength is the difference, from 0 to 255 for all dtypes, up to which surroundings count as alike: about that
        of the noise. Surroundings of patch x patch pixels are compared in an area of search x search pixels; a smaller
        search is faster. Alpha is ignored and not changed. The same as OpenCV's fastNlMeansDenoising (A. Buades,
        B. Coll and J. Morel, "Non-local means denoising", IPOL 2011).

        Args:
            strength: a number from 0.1 to 100  [6.0]
            patch: 3, 5 or 7  [7]
            search: 7, 11, 15, 21 or 31  [21]

        In a text: 'denoise', 'denoise 12 search=11'.
        """
    def text(
        self,
        text: str,
        size: int | str = 24,
        color: str = '#ffffff',
        gravity: Literal['center', 'north', 'northeast', 'east', 'southeast', 'south', 'southwest', 'west', 'northwest'] = 'south',
        margin: int = 16,
        font: str | None = None,
        digest: str = '',
    ) -> Self:
        """Draw a text over the image.

        size is that of the letters (the em) in pixels, or PERCENT% of the image's shorter side; color is #RRGGBB or
        #RRGGBBAA. gravity is the side or corner at which the text lies, margin its distance from the edges in pixels.
        \n begins a new line, and fields such as {stem} are filled in. Text from right to left and scripts with joined
        letters are set as they are written.

        font is the path of a TrueType or OpenType font. Without it, DejaVu Sans is used: Latin, Greek, Cyrillic,
        Armenian, Georgian, Hebrew, Arabic, and symbols. A font draws an empty box for a character that it lacks.

        Args:
            text: a text of 1 to 1000 characters
            size: a whole number from 1 to 1000 or PERCENT% of the image's shorter side  [24]
            color: #RRGGBB, or #RRGGBBAA with the alpha last  [#ffffff]
            gravity: center, north, northeast, east, southeast, south, southwest, west or northwest  [south]
            margin: a whole number from 0 to 100000  [16]
            font: the path of a file  [None]
            digest: the SHA-256 that the file must have, in hexadecimal; jobs fill it in  []

        In a text: 'text "a caption"', 'text "© 2026 Jane Doe" size=24 color=#ffffffc0 gravity=southeast margin=16', "text 'שלום مرحبا' size=5% color=#ffd000 gravity=north".
        """
    def threshold(self, value: float | Literal['otsu'] = 'otsu') -> Self:
        """Make each value white if it is above the level, otherwise black. value=otsu computes the level.

        Levels are from 0 to 255 for all dtypes. The same as OpenCV's THRESH_BINARY.

        Args:
            value: a number from 0 to 255 or otsu  [otsu]

        In a text: 'threshold 128', 'threshold otsu'.
        """
    def adaptive_threshold(
        self,
        kernel: int = 11,
        offset: float = 2.0,
        method: Literal['mean', 'gaussian'] = 'mean',
    ) -> Self:
        """Make each value white if it is above the mean of its neighbours minus the offset, otherwise black.

        The mean is taken over kernel x kernel pixels of the same channel, equally weighted (mean) or weighted by a
        Gaussian (gaussian), and rounded to the image's dtype. The edge pixels are repeated outwards. The offset is
        on a scale from 0 to 255 for all dtypes. Alpha is ignored and not changed. The same as OpenCV's
        adaptiveThreshold.

        Args:
            kernel: a whole number from 3 to 301  [11]
            offset: a number from -255 to 255  [2.0]
            method: mean or gaussian  [mean]

        In a text: 'adaptive_threshold', 'adaptive_threshold 31 offset=5 method=gaussian'.
        """
    def grayscale(self) -> Self:
        """Convert to gray: 0.299 R + 0.587 G + 0.114 B (luma of ITU-R BT.601, OpenCV's COLOR_RGB2GRAY).

        In a text: 'grayscale'.
        """
    def to_srgb(self) -> Self:
        """Convert the colours to sRGB, from what the file states: a profile, codes, a gamma, or EXIF's Adobe RGB.

        The intent is relative colorimetric. Gray remains gray. Nothing changes if the file states nothing or sRGB.

        In a text: 'to_srgb'.
        """
    def invert(self) -> Self:
        """Make the negative: each value becomes the maximum of its dtype minus the value.

        In a text: 'invert'.
        """
    def brightness(self, amount: float) -> Self:
        """Add an amount to each value: lighter if positive, darker if negative.

        The amount is from -255 to 255, and is scaled to the range of 16-bit and float images. Values are clipped at
        black and white.

        Args:
            amount: a number from -255 to 255

        In a text: 'brightness 10', 'brightness -25.5'.
        """
    def contrast(self, factor: float) -> Self:
        """Multiply each value's distance from the middle of the range: more contrast if factor > 1, less if < 1.

        1 changes nothing, 0 gives uniform gray. Values are clipped at black and white.

        Args:
            factor: a number from 0 to 10

        In a text: 'contrast 1.2', 'contrast 0.5'.
        """
    def gamma(self, value: float) -> Self:
        """Raise each value, scaled to 0 to 1, to the power of 1 / gamma. A gamma above 1 makes the image lighter.

        Args:
            value: a number from 0.05 to 20

        In a text: 'gamma 1.2', 'gamma 0.45'.
        """
    def posterize(self, levels: int) -> Self:
        """Round each value to the nearest of a number of evenly spaced levels from black to white.

        Args:
            levels: a whole number from 2 to 256

        In a text: 'posterize 4'.
        """
    def saturation(self, factor: float) -> Self:
        """Multiply each channel's distance from the luma: more colour if factor > 1, less if < 1.

        1 changes nothing, 0 gives gray. Gray images are not changed. The luma is that of `grayscale`.

        Args:
            factor: a number from 0 to 10

        In a text: 'saturation 1.5', 'saturation 0'.
        """
    def sepia(self, amount: float = 1.0) -> Self:
        """Tint the image brown, like an old photograph, by an amount from 0 to 1. Gray images become RGB.

        The matrix is that of the sepia filter in W3C's Filter Effects Module Level 1.

        Args:
            amount: a number from 0 to 1  [1.0]

        In a text: 'sepia', 'sepia 0.6'.
        """
    def trim(self, tolerance: float = 10.0, color: str | None = None) -> Self:
        """Cut off a border of one colour: that of the top left pixel, or the given color, #RRGGBB or #RRGGBBAA.

        tolerance is the difference, from 0 to 255 for all dtypes, up to which a value of any channel counts as that
        colour. Of a transparent border, only the alpha counts. An image of that colour alone is not changed.

        The size of the output is known only when the pixels are: the image is processed as a whole, never in tiles.

        Args:
            tolerance: a number from 0 to 255  [10.0]
            color: #RRGGBB, or #RRGGBBAA with the alpha last  [None]

        In a text: 'trim', 'trim 4', 'trim 20 color=#ffffff'.
        """
