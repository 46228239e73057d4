"""Functions of users: the source they depend on, the files and variables they read, the errors they raise."""
