"""Trust of documents, the publishing side: a TUF repository (The Update Framework 1.0) whose files are rows.

`repository` makes and signs metadata and is pure; `targets` makes the content of the three targets; `serving` names
the files and keeps the online roles fresh over a store that Fabric brings; `bootstrap` makes keys and first files.
Delegated roles, re-signing by the offline holders and rotation have their place here and are not built yet.
"""
