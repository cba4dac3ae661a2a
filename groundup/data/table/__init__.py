"""Tables: from CSV or Parquet files to clean, encoded, scaled rows in three parts."""
