"""Job engines: where jobs run, and that each of them runs to its end."""
