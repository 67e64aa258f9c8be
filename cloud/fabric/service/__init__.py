"""What Fabric does, one module an area. No HTTP, no SQL: it decides over `store`, pure files and ports."""
