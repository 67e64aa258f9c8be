"""Tests of `node.hwbind`, on software TPMs behind resource managers."""
