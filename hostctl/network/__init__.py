"""The workloads' private network: addresses, published ports and isolation on one bridge of the host."""
