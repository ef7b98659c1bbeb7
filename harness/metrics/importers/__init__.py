"""Result files of other benchmarks, read so that ``compare`` takes them, and written in their key names.

One file a tool; each has ``read`` and ``write``. Their figures count from the moment of sending, ours from the
intended arrival: see :class:`harness.metrics.importers.imported.ImportedRun`.
"""
