"""How tables of an older version become those of this one: Alembic revisions, forward only.

``upgrading`` runs them; there is no ``alembic.ini``. What a new revision needs is in CONTRIBUTING.
"""
