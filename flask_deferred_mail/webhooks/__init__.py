"""How providers prove that a report is theirs, and what it says; knows no Flask and no database."""
