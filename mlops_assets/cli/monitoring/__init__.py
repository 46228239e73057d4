"""``mlops monitor`` and ``mlops alerts``: reports, decisions, the next step, alerts and their silences."""
