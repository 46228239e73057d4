"""``mlops models`` and ``mlops reproduce``: versions, aliases, approvals and repeated trainings."""
