"""The decrypting proxy: from an accepted client to a relayed response."""
