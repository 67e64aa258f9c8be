"""The node's licence: which statements are accepted, their store on disk, and the verdict about them."""
