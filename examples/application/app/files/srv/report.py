"""The nightly job: counts the notes and appends the count to a file in the volume ``/reports``."""

import datetime
from pathlib import Path

from notes import database

connection = database()
with connection, connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM note")
    (count,) = cursor.fetchone()
connection.close()
with Path("/reports/notes.txt").open("a", encoding="utf-8") as report:
    report.write(f"{datetime.date.today().isoformat()} {count}\n")
print(f"{count} notes")
