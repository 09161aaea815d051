"""CRC-32C against known values and against its own definition."""

import random
import unittest

from ironring._crc32c import crc32c


def bit_by_bit(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Crc32c(unittest.TestCase):
    def test_known_values(self):
        for data, expected in (
            (b"", 0),
            (b"123456789", 0xE3069283),
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
        ):
            self.assertEqual(crc32c(data), expected)

    def test_long_inputs_of_every_remainder(self):
        rng = random.Random(1)
        for length in [4095, 4096, 4097, 4223, 4224, 10_000, 33_333]:
            data = bytes(rng.getrandbits(8) for _ in range(length))
            with self.subTest(length):
                self.assertEqual(crc32c(data), bit_by_bit(data))
                self.assertEqual(crc32c(memoryview(data)), bit_by_bit(data))


if __name__ == "__main__":
    unittest.main()
