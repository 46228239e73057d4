{{ config(unique_key='as_of') }}
{{ punctuality('origin') }}
