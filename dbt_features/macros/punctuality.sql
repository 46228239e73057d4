{# How late the flights of one group were over the seven days that end with each day, as far as was known at its end. #}
{% macro punctuality(by) %}
with days as (
    select unnest(generate_series(
        timezone('America/New_York', timestamptz '{{ env_var("MLOPS_WINDOW_START") }}'),
        timezone('America/New_York', timestamptz '{{ env_var("MLOPS_WINDOW_END") }}') - interval 1 day,
        interval 1 day
    )) as local_day
),
bounds as (
    select
        timezone('America/New_York', local_day) as day,
        timezone('America/New_York', local_day + interval 1 day) as as_of,
        timezone('America/New_York', local_day - interval 6 day) as since
    from days
)
select
    flights.{{ by }},
    bounds.day,
    bounds.as_of,
    avg((flights.arr_delay > 15)::int) as {{ by }}_late_share_7d,
    avg(flights.arr_delay) as {{ by }}_mean_delay_7d,
    count(*) as {{ by }}_flights_7d
from bounds
join {{ source('dataset', 'flights') }} as flights
  on flights.scheduled_at >= bounds.since
 and flights.scheduled_at < bounds.as_of
 and flights.landed_at < bounds.as_of
where flights.arr_delay is not null
group by flights.{{ by }}, bounds.day, bounds.as_of
{% endmacro %}
