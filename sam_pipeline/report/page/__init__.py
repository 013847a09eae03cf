"""The page of `report`: which pictures it shows, how they and the charts are drawn, its template."""
