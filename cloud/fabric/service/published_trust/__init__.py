"""Use cases of the published trust: publish it, follow it, count which nodes have adopted it, order renewals."""
