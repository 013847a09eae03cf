"""Reading what tables hold, in pieces of bounded size."""
