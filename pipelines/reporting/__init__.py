"""The page that shows an archive: pictures, errors, bytes and promises, in one file."""
