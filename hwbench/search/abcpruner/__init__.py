"""ABCPruner: an artificial bee colony picks every width (Lin et al., IJCAI 2020)."""
