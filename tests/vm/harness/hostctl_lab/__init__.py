"""What the tests with virtual machines share: built releases, a served repository, a host to ask."""
