"""`python -m coalmine.cli`, for where the script is not on the PATH."""

from coalmine.cli import main

main()
