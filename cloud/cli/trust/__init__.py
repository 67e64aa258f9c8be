"""`cascade trust`: commands on the published trust."""
