"""The subcommands of rsq, one a file."""
