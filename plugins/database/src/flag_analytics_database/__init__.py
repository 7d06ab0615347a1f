"""The SQLite, PostgreSQL, MySQL and MariaDB collector of flag-analytics."""
