"""Training of the model that ships inside the package.

Nothing here is imported by the server; the output is a folder of data files
under ``src/tokenworks/embedded``. Run it with ``python -m training.embedded``.
"""
