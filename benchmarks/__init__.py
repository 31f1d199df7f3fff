"""Speed, memory and learning measured against named peers; results are dated and carry hardware and commit."""
