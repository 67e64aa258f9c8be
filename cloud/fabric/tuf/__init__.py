"""The published trust: a TUF repository (The Update Framework 1.0) whose files are rows of the database.

`repository` makes and signs metadata. `targets` makes and reads the three target files. `checking` checks metadata that
were signed offline. `serving` finds the file of a path, and signs the online roles again. `current_trust` holds the
trust that this process uses. `bootstrap` makes keys and the first files. `folder` and `offline` serve the holders of
the offline keys: files in a folder, and the changes that they sign. Delegated roles are not built.
"""
