"""The subcommands of ``harness`` besides ``run``, one file each."""
