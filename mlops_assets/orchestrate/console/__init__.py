"""The web console: read-only pages about models, runs, monitors, services, features and replays."""
