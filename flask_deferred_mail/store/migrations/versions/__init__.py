"""One file for each version of the tables. A file that was released is never changed."""
