#!/bin/bash
# Python's multiprocessing, with SQLite being written by all of it.
set -e
"${0%/*}/begin.sh"
cat >numbers.py <<'END'
import multiprocessing
import sqlite3
import time

def work(number):
    total = sum(i * i % 7 for i in range(30_000))
    time.sleep(0.05)
    with sqlite3.connect("numbers.db", timeout=60) as database:
        database.execute("insert into numbers values (?, ?)", (number, total + number))
    return number

def main():
    with sqlite3.connect("numbers.db") as database:
        database.execute("create table numbers (number integer primary key, total integer)")
    with multiprocessing.Pool(4) as pool:
        done = sum(pool.imap_unordered(work, range(1000)))
    with sqlite3.connect("numbers.db") as database, open("result", "w") as result:
        print(done, *database.execute("pragma integrity_check"), file=result)
        print(*database.execute("select count(*), sum(total) from numbers"), file=result)

if __name__ == "__main__":
    main()
END
python3 numbers.py
