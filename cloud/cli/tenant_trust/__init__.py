"""Command group: the parts of `cascade tenant trust` that read files of trusted hardware."""
