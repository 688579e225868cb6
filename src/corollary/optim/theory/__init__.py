"""What theory promises of the methods, held against runs: rates, lower bounds, constants, checks of assumptions."""
