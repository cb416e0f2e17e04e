"""Pre-trained supernets, one folder each; ``bespoke.supernet.zoo`` reads them."""
