/** What this browser remembers of the user: small values, in `localStorage`. */

const PREFIX = "sonorant.";

/** Reads a value; the fallback where there is none, or where the browser keeps nothing. */
export function recall<T>(name: string, fallback: T): T {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? fallback : JSON.parse(kept);
  } catch {
    return fallback;
  }
}

/** Keeps a value; null forgets it. */
export function remember(name: string, value: unknown): void {
  try {
    if (value === null || value === "") localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing forgets at the end of the visit.
  }
}
