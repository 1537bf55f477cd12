"""How many mails of one transport a sweep has in hand at once.

A claim costs nearly as much for one mail as for a hundred. But what is in hand when a process is
killed waits for the end of its lease, and a more urgent mail waits behind it. So there is about
half a second's work in hand, whatever that is: few mails where a server is slow, many where it is
fast.
"""

from __future__ import annotations

import time

#: Seconds of work that should be in hand.
AHEAD = 0.5
#: Mails in hand at most, all senders together; or, where that is more, for each of them. With two
#: each, 128 senders of a slow server found nothing to do for half of the time.
MOST, MOST_EACH = 128, 4
FEWEST = 8
#: Bytes of mail, for each that may be in hand, of which the text is read together with others'.
ORDINARY = 8 * 1024


class InHand:
    """The number, which follows the pace at which mails are done."""

    def __init__(self, senders: int) -> None:
        #: Each sender has one, and finds the next one waiting.
        self._least = max(FEWEST, senders * 2)
        self._greatest = max(MOST, senders * MOST_EACH)
        self.most = max(self._least, min(senders * 4, 64))
        #: Bytes of text to read at once, so that senders need not read mail by mail.
        self.room = self._greatest * ORDINARY
        self._done = 0
        self._since = time.monotonic()

    def adapt(self, done: int) -> None:
        """Look at the pace; ``done`` is the number of mails done so far."""
        now = time.monotonic()
        seconds = now - self._since
        if seconds < AHEAD / 4:
            return
        wanted = int((done - self._done) / seconds * AHEAD)
        self.most = min(max(wanted, self._least), self._greatest)
        self._done, self._since = done, now
