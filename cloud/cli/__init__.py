"""`cascade`: the command line of operators and of whoever runs the cloud."""
