"""Each conversation with the cloud, from the first byte to what is stored."""
