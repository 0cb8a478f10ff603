"""DLBA: an array of equal nodes behind one virtual IP address, each a decrypting proxy.

The version lives here and nowhere else; setup.py reads it from the text of this file.
"""

__version__ = "0.1.0.dev0"
