"""`python -m clbinn` is the command `clbinn`."""

from clbinn.cli import main

main()
