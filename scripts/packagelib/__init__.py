"""The slow test of the packages, see scripts/packages-test. Standard library only: it runs before there is anything."""
