"""Queues that an application has already, told which mail is due: Celery, RQ, or any other."""
