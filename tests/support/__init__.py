"""What the tests share: real servers, a cluster, faults on the network, waiting, leak checks."""
