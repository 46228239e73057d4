"""``mlops replay``: the command, its preparation, and the tables that it reads."""
