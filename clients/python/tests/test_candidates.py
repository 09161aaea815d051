"""The order in which addresses are tried."""

import unittest

from ironring._candidates import Candidates

KNOWN = ["a", "b", "c"]


class CandidatesTest(unittest.TestCase):
    def test_those_that_failed_come_last(self):
        candidates = Candidates()
        candidates.failed("a")
        self.assertEqual(candidates.order(KNOWN), ["b", "c", "a"])
        candidates.reached("a")
        self.assertEqual(candidates.order(KNOWN), KNOWN)

    def test_one_that_does_not_lead_makes_room_for_the_next(self):
        candidates = Candidates()
        candidates.does_not_lead("a", "a", KNOWN)
        self.assertEqual(candidates.order(KNOWN), KNOWN, "who leads is the map's business")
        candidates.does_not_lead("a", None, KNOWN)
        self.assertEqual(candidates.order(KNOWN), ["b", "c", "a"])

    def test_another_one_is_asked_for_a_map_than_the_one_that_refuses(self):
        candidates = Candidates()

        def orders(turn=0):
            turns = (turn, turn + 1, turn + 2)
            return ["".join(candidates.order_for_map(KNOWN, turn, "a")) for turn in turns]

        self.assertEqual(orders(), ["abc", "abc", "acb"], "it has a connection")
        candidates.refuses("a")
        self.assertEqual(orders(), ["bca", "bca", "cba"])
        candidates.failed("b")
        self.assertEqual(orders(), ["cba", "cba", "cba"])
        self.assertEqual(orders(9), ["abc", "bca", "cab"], "each has its turn once in a while")
        candidates.gave_map("a")
        self.assertEqual(orders()[0], "cba", "it knows nothing new")
        candidates.gave_map("c")
        self.assertEqual(orders()[0], "acb")


if __name__ == "__main__":
    unittest.main()
