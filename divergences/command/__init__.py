"""The command line: ``line`` has the commands, ``running`` what they share, and ``tables``, with
``delimited`` and ``columns``, reads samples from files."""
