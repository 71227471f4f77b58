from imageloom.testing.codecs import CodecTests


class TestQoi(CodecTests):
    format = "qoi"
