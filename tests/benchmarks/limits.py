"""Why some bars are missed: what was counted, in words.

The figures of the page are made anew by each run; these are not, and say when they were counted.
"""

from __future__ import annotations

TEXT = """## What stands in the way

Where a bar is missed, this is why. Counted on 2026-11-21 on the machine of the tables below: CPU
by the kernel's books, instructions by `valgrind --tool=callgrind`, and with a probe in
`PyEval_SaveThread` how often a mail lets go of the interpreter's lock.

- **CPU of a request that records and sends, 2.0 times the empty view.** The empty view takes 0.23
  ms in a quiet minute, so 2.0 leaves 0.23 ms for everything. `json.dumps` and one bare INSERT
  take that by themselves, most of it inside SQLite, for a commit that survives a power cut. Of
  the 2.8 million instructions of such a request, Flask's empty view has 11 %, the message and its
  checks 7 %, JSON 8 %, the INSERT with its driver 7 %, the rest of recording 12 %, rendering and
  the SMTP dialogue 25 %, the outcome (three tables, a commit of its own) 18 %, the rest of the
  attempt 12 %. No function of ours has more than 3 %. A mail that goes out with its own response
  shares its commit, its claim and its round trips with no other, so it costs half as much again
  as one in the drain.
- **p99 with eight clients, twice the empty view's.** The clients ask again as soon as they have
  an answer, so both cores are busy all the time, and the time of a request grows as its CPU does:
  what takes 2.5 times as much takes 2.5 times as long in the mean. Beyond that, SQLite has one
  writer: the slowest 2 % of requests spend three quarters of their time waiting for the one that
  writes, whose INSERT waits for the disk, or for a core. Each process lets its threads write in
  turn and asks anew every millisecond; the bare INSERT, which leaves the waiting to SQLite, does
  far worse.
- **Half of smtp-source, four times django-post_office, in the drain.** Either would be some 6,500
  mails/s: 0.3 ms of CPU on two cores for everything, `smtp-sink` included. `smtp-source` keeps
  one mail in memory, reads nothing and writes nothing down. Ours claims each mail, reads it,
  renders it, and commits what became of it before the next one of that connection ends. Some 700
  calls of Python a mail, none of which stands out in the [profile](#profile); the dialogue
  itself, as a bare loop over a socket, is 0.05 ms. Above that, threads wait for each other: 12
  times a mail they let go of the interpreter's lock, five of them in SQLite's driver, three in
  the socket. (It was 34 times before claims came as one value. That changed little for 16
  senders, and made some 1,100 mails/s into 1,440 for 128 of a slow server.) Processes share the
  work evenly, so more cores mean more mails; here there are two.
- **0.4 ms of CPU per mail.** The same: PostgreSQL, which writes many outcomes by one call, is
  close to it; SQLite's own work (reading, three tables and their indexes) is part of the process.
- **50 MiB for a process.** On PostgreSQL, Python and its library take 12.6 MiB, Flask with
  Werkzeug and Jinja 9.4, SQLAlchemy 15.5, psycopg 9.0 (half of it libpq and OpenSSL), ours 5.8.
  Mails of 6 KB add 4 to 8 MiB while 16 threads drain them, whatever is queued.
  `PYTHONOPTIMIZE=2` saves some three ([worker](../guides/worker.md)).
- **Through HTTP providers** one core is the limit: the request, `http.client`'s header parser, and
  the same outcome as above.
"""
