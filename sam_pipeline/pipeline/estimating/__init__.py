"""What a run would take: a sample of its images goes through the real stages."""
